"""The read model: a SQLite file that follows the journal, so that questions are answered fast.

`filters` says what is asked for, `queries` turns that into SQL, `search` chooses the way, `reader` asks. `pairs`,
`rows` and `commands` tell what journal lines say, `indexer` follows them, `write` puts them into the tables of
`schema`, `prune` forgets the old ones. The file can be deleted at any time: the next indexer builds it again from the
journal.
"""
