"""Jobs: records that survive a restart, one worker that owns the device, progress for pages to watch."""
