"""Routes in the form of Cohere's second API."""
