"""A Mandarin recogniser of our own, the judge of Mandarin speech: its sounds, its network, its decoding, and how it is taught."""
