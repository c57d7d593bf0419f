"""What a study takes: the work of each step in units, how long a unit takes on a device, and what that comes to."""
