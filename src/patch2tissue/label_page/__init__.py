"""The labelling page: a server on this machine and what runs in the browser. Needs the extra `viewer`."""
