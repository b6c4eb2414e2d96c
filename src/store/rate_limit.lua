-- Takes one from each budget, or none from any. Each key has three arguments. A rate is `r`, its interval and
-- its burst in ticks; a quota is `q`, its count and the length of its window in seconds. The arithmetic is the
-- same as in filters/src/rate_limit/algorithms.rs, on this server's clock, which all gateways share. A tick is a
-- sixteenth of a microsecond since 2026: integers that a double holds exactly until 2043. Returns the index of
-- the key with the longest wait (0: all were taken), and the wait in microseconds.

local time = redis.call('TIME')
local sec, micro = tonumber(time[1]), tonumber(time[2])
local now = ((sec - 1767225600) * 1000000 + micro) * 16
local states, lives = {}, {}
local worst, longest = 0, 0

local function set(key, state, life)
  redis.call('SET', key, state, 'PX', string.format('%.0f', math.max(1, life)))
end

for i, key in ipairs(KEYS) do
  local kind = ARGV[3 * i - 2]
  local one, two = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local was = redis.call('GET', key)
  local wait
  if kind == 'r' then
    local due = was and tonumber(was) or now
    if due > now + two then
      -- The rule is stricter now, or the clock was set back.
      due = now + two
      set(key, string.format('%.0f', due), math.ceil(two / 16000) + 1)
    end
    due = math.max(due, now) + one
    wait = math.ceil((due - now - two) / 16)
    states[i] = string.format('%.0f', due)
    lives[i] = math.ceil((due - now) / 16000) + 1
  else
    local until_sec = (math.floor(sec / two) + 1) * two
    local last, used = 0, 0
    if was then
      local a, b = string.match(was, '^(%d+):(%d+)$')
      last, used = tonumber(a) or 0, tonumber(b) or 0
    end
    if last <= sec then used = 0 end
    wait = 0
    lives[i] = (until_sec - sec) * 1000 - math.floor(micro / 1000) + 1
    if used >= one then
      wait = (until_sec - sec) * 1000000 - micro
      if last ~= until_sec then
        set(key, string.format('%.0f:%.0f', until_sec, used), lives[i])
      end
    end
    states[i] = string.format('%.0f:%.0f', until_sec, used + 1)
  end
  if wait > longest then
    worst, longest = i, wait
  end
end

if worst == 0 then
  for i, key in ipairs(KEYS) do
    set(key, states[i], lives[i])
  end
end
return {worst, longest}
