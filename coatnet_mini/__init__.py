"""The companion package of the book on CoAtNet: one module per idea, in the book's order."""
