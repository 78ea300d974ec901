"""Those that are measured side by side: nearfield and other libraries' models, tuned alike at equal CPU seconds.

``contest`` holds the rules, ``own`` nearfield, ``denoiser`` and ``density`` the others. Libraries are imported when
their contestant's turn comes, so that one that is not installed is reported and does not stop the rest.
"""
