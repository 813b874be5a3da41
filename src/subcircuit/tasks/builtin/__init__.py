"""The built-in tasks: a data file each, or a function where words and templates are not enough."""
