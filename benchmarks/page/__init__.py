"""The HTML page, and marked blocks of Markdown pages."""
