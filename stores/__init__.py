"""What is remembered: records, the ledger (SQLite), vectors (FAISS). Imports nothing from the layers above."""
