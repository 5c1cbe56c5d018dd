"""What every room stands on: the contract, errors, vocabularies, masks."""
