"""From light on the sensor to an 8-bit picture: vignette, exposure, white balance, blur, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mf_training.scenes.palette import Rng


def develop(light: npt.NDArray[np.float32], rng: Rng) -> npt.NDArray[np.uint8]:
    """(3, H, W) linear light to a (3, H, W) uint8 RGB picture."""
    image = np.ascontiguousarray(light.transpose(1, 2, 0))
    height, width = image.shape[:2]
    # Exposure by the mean of the lower part, as automatic exposure of a car does, with a random error.
    key = float(np.exp(np.log(image[height // 3 :] + 1e-3).mean()))
    image *= np.float32(rng.choice([0.11, 0.2], p=[0.35, 0.65]) / key * np.exp(rng.normal(0, 0.35)))
    # What is not sky must not be burnt out, but for its brightest parts.
    bright = float(np.quantile(image[height // 2 :: 4, ::4].max(2), 0.93))
    image *= np.float32(min(1.0, rng.uniform(0.8, 1.3) / max(bright, 1e-3)))
    image *= np.exp(rng.normal(0, 0.045, 3)).astype(np.float32)
    if rng.random() < 0.5:
        cx, cy = rng.uniform(-0.2, 1.2) * width, rng.uniform(0, 1) * height
        y, x = np.ogrid[:height, :width]
        r2 = ((x - cx) ** 2 + (y - cy) ** 2) / width**2
        image *= (1 - rng.uniform(0, 0.4) * r2.clip(0, 1)).astype(np.float32)[..., None]
    sigma = rng.uniform(0.35, 0.8) if rng.random() < 0.8 else rng.uniform(0.8, 1.6)
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = float(np.exp(rng.uniform(np.log(0.002), np.log(0.02))))
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.5:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.6) * 1.8
    image += grain * noise * np.sqrt(np.clip(image, 0.01, 1.0) * 2)
    # A soft shoulder, then gamma, then contrast.
    image = np.clip(image, 0, None)
    image = np.where(image > 0.7, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3), image)
    image = cv2.pow(image, 1.0 / rng.uniform(1.9, 2.4))
    gain = rng.uniform(0.95, 1.5)
    image = (image - 0.4) * gain + 0.4
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.7, 1.35))
    picture = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 97))])
        if done:
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
