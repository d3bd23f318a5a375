"""The Studio: a local web page that starts, watches, exports and compares runs."""
