"""The read model: a SQLite file that follows the journal, so that questions are answered fast.

`filters` says what is asked for, `queries` turns that into SQL, `reader` asks. `rows` and `commands` turn journal
lines into rows, `indexer` writes them, `prune` forgets the old ones, `schema` holds the tables. The file can be deleted
at any time: the next indexer builds it again from the journal.
"""
