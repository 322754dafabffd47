"""Side by side with rclone, and with the binding itself: see compare.py."""
