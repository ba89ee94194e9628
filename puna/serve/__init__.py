"""The HTTP application: an endpoint for what was trained, and pages to look at runs."""
