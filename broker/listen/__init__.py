"""Sockets: the only room that knows them. It accepts, shakes hands, reads and writes; the bytes mean nothing to it."""
