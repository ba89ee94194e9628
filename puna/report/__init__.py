"""Pages about runs, as single files: `write_report(Path("runs/quickstart"))` in `page.py`."""
