"""Sound environments that look suspicious."""
