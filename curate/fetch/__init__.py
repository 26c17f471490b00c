"""The downloader: polite, safe, and honest about every URL. `one.py` follows one URL from list row to outcome."""
