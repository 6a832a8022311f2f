// One call, told as data: what came back, or why it was refused.
function call(url, options) {
  try {
    const answer = fazt.net.fetch(url, options);
    return { status: answer.status, url: answer.url, body: answer.json() };
  } catch (error) {
    return { code: error.code, reason: error.reason, retryable: error.retryable, callId: error.callId };
  }
}

module.exports = { call };
