"""Where inputs come from: one file, one kind of source."""
