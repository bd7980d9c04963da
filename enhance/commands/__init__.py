"""The commands of `drkit enhance`: typed options, then the pipeline, the validators or the ledger, then output."""
