"""The viewer: slides with their tissue maps in the browser. Needs the extra `viewer`."""
