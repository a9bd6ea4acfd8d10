"""What is written for container engines, without one."""
