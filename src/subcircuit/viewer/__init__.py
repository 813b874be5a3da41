"""The viewer (extra ``viewer``): a local server and its page."""
