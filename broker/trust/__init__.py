"""Who may come in: our certificate authority, one-time codes, tokens, passwords, and the gate that asks for them."""
