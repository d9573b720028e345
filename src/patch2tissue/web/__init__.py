"""What the pages share: serving them to this machine alone. Needs the extra `viewer`."""
