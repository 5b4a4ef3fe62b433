"""What `launch.py doctor` looks at: small checks that return what they found, as values. None changes anything.

interface/doctor.py runs and words them; the checks of the app's own things are in interface/checkup.py.
"""
