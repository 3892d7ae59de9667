"""Behind photo editors and in the browser: the protocols of AUTOMATIC1111, IOPaint and OpenAI, and a page."""
