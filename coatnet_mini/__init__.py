"""The companion package of the book on CoAtNet: one module per idea, in the order the book meets them."""
