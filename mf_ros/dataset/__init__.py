"""Training samples from bags: one row a keyframe, in a Lance data set or a Parquet file. No ROS, no torch."""
