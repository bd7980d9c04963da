"""How fast, how many, and how long: quota, pacing and the estimate of the time left. See docs/pacing.md.

    limit = Limit(model="gemini-2.5-flash", requests_per_minute=15, requests_per_day=1500)
    pacer = Pacer(Ledger(inventory), limit, Pace(), run=run, now=utc_now, monotonic=boot_time, sleep=time.sleep,
                  random=random.random)
    reply = pacer.ask(lambda: generator.send(request, material, timeout_s=120), tokens=request.tokens, timeout_s=120)

No call is made outside of `Pacer.ask` or `Pacer.call`.
"""

from drkit.inventory import Ledger
from enhance.pace.clocks import boot_time
from enhance.pace.eta import Eta, Forecast
from enhance.pace.limit import Limit
from enhance.pace.pacer import Pacer, PaceState, Ticket
from enhance.pace.policy import Evidence, Pace

__all__ = ["Eta", "Evidence", "Forecast", "Ledger", "Limit", "Pace", "PaceState", "Pacer", "Ticket", "boot_time"]
