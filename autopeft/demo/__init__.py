"""What `autopeft demo` runs on without a download: an embedded model and a text task."""
