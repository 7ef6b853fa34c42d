"""Training rows that are read as a stream: from files of any size, in constant memory, and resumed exactly."""
