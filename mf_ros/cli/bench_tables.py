"""The documents of ``mf-ros bench`` as lines for people."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence

Document = Mapping[str, Any]

CORE_PARTS = {
    "projection": "projection + culling of a 64-ring sweep (120k points) into {size}",
    "cloud": "packing of a {size} organized coloured cloud",
    "network": "the shipped network in onnxruntime on the CPU, same frame and input",
    "linear": "baseline: linear over the Delaunay triangles, {size}",
    "ip_basic": "baseline: IP-Basic, {size}",
}
_MOST_OPERATORS = 12
_MOST_KEPT = 0.8


def as_text(document: Document) -> List[str]:
    """The document of any suite."""
    told = {**document["machine"], "threads": document["threads"], "clock": document["clock"]}
    lines = ["  ".join(f"{key} {value}" for key, value in told.items())]
    if document.get("others_busy") is not None:
        lines.append(f"other processes kept {document['others_busy']:.2f} cores busy meanwhile")
    return [*lines, *_TEXTS[document["suite"]](document)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> List[str]:
    """Lines with columns of even width; the first ``left`` are flush left, the others flush right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), *map(line, rows)]


def _core(document: Document) -> Iterator[str]:
    size = "x".join(map(str, document["size"]))
    yield f"{'median':>9} {'p95':>9} {'repeats':>8}  {'ratio (95% interval)':<22}"
    for row in document["timings"]:
        name = row["name"]
        what = CORE_PARTS.get(name, "engine {name} per {size} frame, input of 32 rings").format(name=name, size=size)
        yield (
            f"{row['median_ms']:6.1f} ms {row['p95_ms']:6.1f} ms {row['repeats']:8}  {_ratio(row['ratio']):<22}  "
            f"{name}: {what}"
        )


def _engine(document: Document) -> Iterator[str]:
    width, height = document["size"]
    yield f"one {width}x{height} frame with {document['returns']} returns"
    yield from _ceilings(document["ceilings"])
    yield (
        f"matrix products in the rounds of the engines: {document['rounds_gflops']:.0f} GFLOP/s, at best "
        f"{document['best_gflops']:.0f}, of which shares are"
    )
    yield ""
    rows = []
    for each in document["engines"]:
        memory, network, shares = each["memory"], each["network"], each["shares"]
        rows.append(
            [
                each["label"],
                f"{each['timing']['median_ms']:.1f}",
                f"{each['timing']['p95_ms']:.1f}",
                _ratio(each["ratio"]),
                "-" if memory is None else f"{memory['loaded']:.0f} / {memory['peak']:.0f}",
                "-" if network is None else f"{network['gflop']:.1f}",
                "-" if shares is None else f"{shares['network']:.0%}",
                "-" if shares is None else f"{shares['frame']['value']:.0%}",
            ]
        )
    head = ["engine", "median ms", "p95 ms", "ratio", "MB loaded / peak", "GFLOP", "of rate: network", "frame"]
    yield from table(head, rows)
    for each in document["engines"]:
        if each["network"] is not None:
            yield from _operators(each)


def _operators(each: Document) -> Iterator[str]:
    network = each["network"]
    yield ""
    yield (
        f"{each['label']}: {network['ms']:.1f} ms in the network, {network['runs']} run{'s'[: network['runs'] - 1]}, "
        f"on {network['provider']}, by operator"
    )
    rows = [
        [
            row["name"],
            str(row["calls"]),
            f"{row['ms']:.1f}",
            f"{row['gflop']:.2f}" if row["gflop"] else "",
            f"{row['share_of_rate']:.0%}" if row["gflop"] else "",
            f"{row['gb']:.2f}",
            f"{row['share_of_copy']:.0%}",
            row["bound"],
        ]
        for row in network["operators"][:_MOST_OPERATORS]
    ]
    yield from table(["operator", "calls", "ms", "GFLOP", "of rate", "GB", "of copy rate", "bound by"], rows)
    lost = {name: ms for name, ms in network["kept_from_rate_ms"].items() if ms > 0}
    told, total = [], sum(lost.values())
    for name, ms in lost.items():
        told.append(f"{name} {ms:.1f} ms")
        if sum(lost[each] for each in list(lost)[: len(told)]) > _MOST_KEPT * total:
            break
    yield f"what keeps it from the rate, {total:.1f} ms in all: {', '.join(told)}"


def _pipeline(document: Document) -> Iterator[str]:
    methods = document["methods"]
    yield f"{document['drive']}, {document['returns']} returns in the image; median (p95) in ms"
    stages = list(methods[0]["stages"])

    def cells(name: str, of: Callable[[Document], str]) -> List[str]:
        return [name, *(of(method) for method in methods)]

    rows = [[stage, *(_timing(method["stages"][stage]) for method in methods)] for stage in stages]
    rows.append(cells("ratio of totals", lambda method: _ratio(method["ratio"])))
    rows.append(cells("beside the engine", lambda method: _timing(method["beside_engine"])))
    rows.append(cells("  part of the total", lambda method: f"{method['beside_share']:.0%}"))
    yield from table(["stage", *(method["label"] for method in methods)], rows)
    yield f"{methods[0]['stages']['total']['repeats']} frames of each method, in turns"


def _node(document: Document) -> Iterator[str]:
    width, height = document["size"]
    yield (
        f"{document['sent']} images of {width}x{height} sent at {document['rate_hz']:g} Hz, "
        f"{document['received']} depth images heard"
    )
    for stage, values in document["latency_ms"].items():
        yield f"{values['p50']:7.1f} ms median {values['p95']:7.1f} ms p95  {stage}"
    yield f"memory of the node, MB: {' to '.join(f'{value:.0f}' for value in document['memory_mb'])}"


def _growth(document: Document) -> Iterator[str]:
    for curve in document["curves"]:
        yield ""
        yield f"{curve['title']}: {curve['expected']}"
        for series in curve["series"]:
            points = ", ".join(
                f"{_short(x)}: {ms:.3g} ms" for x, ms in zip(curve["x"], series["median_ms"], strict=True)
            )
            yield (
                f"  {series['label']}: grows as {curve['unit']}^{series['slope']:.2f}, over the upper half as "
                f"^{series['upper_slope']:.2f}; {points}"
            )
    if document["plot"] is not None:
        yield f"drawn in {document['plot']}"


def _train(document: Document) -> Iterator[str]:
    yield (
        f"{document['preset']}: {document['weights'] / 1e6:.2f} million weights, {document['batch']} samples a step, "
        f"on {document['device']} in {document['precision']}"
    )
    steps = document["steps_per_s"]
    yield (
        f"{steps['median']:.3f} steps/s ({steps['low']:.3f} to {steps['high']:.3f}), "
        f"{document['samples_per_s']:.2f} samples/s, {document['waiting']:.0%} of the time waiting for data"
    )
    yield (
        f"{document['gflop_per_step']:.1f} GFLOP a step, {document['gflops']:.1f} GFLOP/s, which is an MFU of "
        f"{document['mfu']:.0%} of the measured {document['rate_gflops']:.0f} GFLOP/s ({document['rate_by']}); "
        f"{document['mfu_computing']:.0%} while it does not wait"
    )


def _scenes(document: Document) -> Iterator[str]:
    rate = document["scenes_per_s"]
    yield (
        f"{document['scenes']} scenes of {document['size'][1]}x{document['size'][0]} with {document['sweeps']} sweeps: "
        f"{rate:.2f} scenes/s, {document['samples_per_s']:.2f}/s with a sample of each"
    )
    rows = [[name, f"{part['median_ms']:.1f}", f"{part['p95_ms']:.1f}"] for name, part in document["parts"].items()]
    yield from table(["part", "median ms", "p95 ms"], rows)


def _ceilings(ceilings: Document) -> Iterator[str]:
    rates = ", ".join(
        f"{precision} {rate:.0f} {'Gop/s' if 'int' in precision else 'GFLOP/s'} ({ceilings['by'][precision]})"
        for precision, rate in ceilings["gflops"].items()
    )
    yield f"machine: {rates}; copies {ceilings['copy_gb_s']:.1f} GB/s"


def _timing(timing: Document) -> str:
    return f"{timing['median_ms']:.1f} ({timing['p95_ms']:.1f})"


def _ratio(ratio: Any) -> str:
    return "" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f}..{ratio['high']:.2f})"


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


_TEXTS: Dict[str, Callable[[Document], Iterator[str]]] = {
    "core": _core,
    "engine": _engine,
    "pipeline": _pipeline,
    "node": _node,
    "growth": _growth,
    "train": _train,
    "scenes": _scenes,
}
