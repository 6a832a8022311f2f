const { call } = require("./calls");

const upstream = fazt.env.get("UPSTREAM");

switch (request.path) {
  case "/api/hello":
    // The upstream receives the secret; this code only knows its name.
    respond({ answer: call(upstream + "/whoami", { auth: "DEMO_KEY" }), inEnv: fazt.env.has("DEMO_KEY") });
  case "/api/get":
    respond(call(request.query.url));
  case "/api/redirect":
    respond(call(upstream + "/moved"));
  case "/api/six": {
    const answers = [];
    for (let i = 1; i <= 6; i++) answers.push(call(upstream + "/count?n=" + i));
    respond(answers);
  }
  default:
    respond(404, { error: "try /api/hello" });
}
