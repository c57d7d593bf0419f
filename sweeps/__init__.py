"""The scheduler around `fulora`: what runs where on Ray, and a record of what happened. Holds no science."""
