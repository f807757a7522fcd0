"""A trial that shows whether tuning pays: strangers' recordings, the steps from clone to tuned voice, and the tables of what they bring."""
