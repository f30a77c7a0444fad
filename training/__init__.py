"""Training side of mf_ros, installed as ``mf_training``: scenes, extraction from bags, loops and export."""
