from hypothesis import settings

# The same examples on every run: what is red today is red tomorrow.
settings.register_profile("domain", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("domain")
