"""Many drawings and questions from a file, resumable (docs/batch.md)."""
