"""Who runs: one parent, gateway workers on one shared port, and the indexer; each a process, restarted if it dies."""
