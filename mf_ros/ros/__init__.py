"""The live ROS 2 node: messages in, the pipeline of the recordings, messages out. Only this package needs rclpy."""
