"""The viewer (extra ``viewer``): a server on this machine alone, and the page that it sends."""
