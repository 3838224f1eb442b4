"""From a verified bundle to int8 bodies, engines and a report."""
