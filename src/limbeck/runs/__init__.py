"""Run folders: recording, snapshots, viewers, editing."""
