"""Starts, watches and stops the processes of `manage.py up`. The programs themselves are run without Django."""
