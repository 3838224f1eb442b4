"""The tests, as a package: `tests.plans.gaussian` is imported under that name from any of them."""
