-- wrk's script: sends the requests of plan.lua and compares every answer with the expected one.
--
--     wrk -t16 -c64 -s check.lua URL -- FOLDER each|own
--
-- each: a thread has one connection and sends every request in turn, so the answer is to its last request.
-- own:  a thread has several connections, which all send the same request, one per thread.
-- The last line of the output begins with MEASURED: JSON with times in microseconds.

local ffi = require("ffi")
local threads = {}

function setup(thread)
  thread:set("place", #threads)
  table.insert(threads, thread)
end

function init(args)
  local plan = dofile(args[1] .. "/plan.lua")
  turns = args[2] == "each"
  requests, expected = {}, {}
  for index, request in ipairs(plan) do
    local file = io.open(request.file, "rb")
    requests[index] = file:read("*a")
    file:close()
    expected[index] = request
    request.numbers = ffi.new("double[?]", #request.numbers + 1, request.numbers)
    if request.kind == "same" then request.text = requests[index]:match("\r\n\r\n(.*)$") end
  end
  current = place % #requests + 1
  wrong, refused, first_wrong = 0, 0, ""
end

function request()
  if turns then current = current % #requests + 1 end
  return requests[current]
end

local function is_near(found, wanted, tolerance)
  return math.abs(found - wanted) <= tolerance -- false for NaN
end

local check = {}

function check.same(want, body)
  return body == want.text
end

function check.tail(want, body)
  local size = 4 * want.count
  if #body < size then return false end
  local floats = ffi.new("float[?]", want.count)
  ffi.copy(floats, ffi.cast("const char *", body) + (#body - size), size)
  for k = 0, want.count - 1 do
    if not is_near(floats[k], want.numbers[k], want.tolerance) then return false end
  end
  return true
end

function check.numbers(want, body)
  local _, start = body:find(want.key == "" and "^%s*%[" or '"' .. want.key .. '"%s*:%s*%[')
  if not start then return false end
  local count = 0
  for text in body:sub(start, body:find("]", start, true)):gmatch("[^%[%],%s]+") do
    local number = tonumber(text)
    if not number or count >= want.count then return false end
    if not is_near(number, want.numbers[count], want.tolerance) then return false end
    count = count + 1
  end
  return count == want.count
end

function check.picture(want, body)
  local label = body:match('"label"%s*:%s*"([^"]*)"')
  local probability = tonumber(body:match('"probability"%s*:%s*([-+.%deE]+)'))
  return label == want.label and probability ~= nil and is_near(probability, want.numbers[0], want.tolerance)
end

function response(status, headers, body)
  if status ~= 200 then
    refused = refused + 1
    if first_wrong == "" then first_wrong = status .. " " .. body:sub(1, 200) end
  elseif not check[expected[current].kind](expected[current], body) then
    wrong = wrong + 1
    if first_wrong == "" then first_wrong = "wrong answer: " .. body:sub(1, 200) end
  end
end

function done(summary, latency)
  local all_wrong, all_refused, example = 0, 0, ""
  for _, thread in ipairs(threads) do
    all_wrong = all_wrong + thread:get("wrong")
    all_refused = all_refused + thread:get("refused")
    if example == "" then example = thread:get("first_wrong") end
  end
  local errors = summary.errors
  io.write(string.format(
    'MEASURED {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"broken":%d,"refused":%d,"wrong":%d,' ..
    '"example":"%s"}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, all_refused, all_wrong,
    example:gsub("[^ -~]", "?"):gsub('["\\]', "'")))
end
