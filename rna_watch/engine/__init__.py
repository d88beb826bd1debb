"""Running the bulk work, cut into tasks, in this process or on Ray."""
