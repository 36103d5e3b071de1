"""`pushbroker bench`: our broker and others side by side in one run. docs/performance.md says what is measured and how.

Nothing of the code that is measured is imported here, so that a mistake in it cannot hide: packets are encoded apart.
"""
