"""One training in many processes: where a process stands, what it does alone, and how a batch is shared out."""
