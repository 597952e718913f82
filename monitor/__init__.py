"""Looking from outside: lag in messages and seconds, and the ledger of the lake."""
