"""Pull: a customer asks and is answered at once; a person takes over where the automation ends."""
